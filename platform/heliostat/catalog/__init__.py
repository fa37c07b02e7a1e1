"""What a source holds, read from Parquet footers alone: files, row groups, rows, columns."""
