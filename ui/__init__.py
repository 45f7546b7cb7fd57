"""The operators' dashboard (Streamlit). The room has no content in this version."""
