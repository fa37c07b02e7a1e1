"""From Parquet to batches: pack once, split and fit on the packed copy, read at memory speed."""
