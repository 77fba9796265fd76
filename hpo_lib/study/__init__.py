"""Run durable studies: the driver, the record, storage, stopping and resuming."""
