"""Files of web servers: read only, within limits on time, size and addresses."""
