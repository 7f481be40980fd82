"""Files of web servers, within limits on time, size and addresses.
URLs come in; bytes go out. Nothing is written or listed, and no address is reached that
`web_access` does not allow.
"""
