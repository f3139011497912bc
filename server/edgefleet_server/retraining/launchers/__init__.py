"""What starts a training somewhere else: a workflow of GitHub, a pipeline of GitLab, a job of Databricks, a DAG of Airflow, a webhook."""
