"""Run the numbered notebooks through papermill and write the report."""
