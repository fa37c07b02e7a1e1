"""What a job file and a site file may say. Plain values: no torch, no Ray, no I/O but YAML."""
