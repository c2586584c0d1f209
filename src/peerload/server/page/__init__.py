"""The web page: the fleet, who reads from whom, manifests, and how the server and its store are.

`page.py` starts and stops it, `port.py` is its port, `application.py` what is asked for there, `stream.py` what each browser
is sent while it looks on, `files/` what runs in it. Nothing of it is needed for the server's work, and nothing there waits for
it. All but `page.py` needs the extra `ui`.
"""
