"""Counts visits in Redis, over HTTP on a Unix socket."""
import http.server
import os
import socket
import socketserver

SOCKET = "/run/app/app"


def visits():
    with socket.socket(socket.AF_UNIX) as redis:
        redis.connect("/run/app/redis")
        redis.sendall(b"INCR visits\r\n")
        return redis.makefile("rb").readline().strip()[1:].decode()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = f"visit {visits()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def address_string(self):
        return "nginx"


if os.path.exists(SOCKET):
    os.unlink(SOCKET)
socketserver.ThreadingUnixStreamServer(SOCKET, Answer).serve_forever()
