"""Starts a process that leaves its group and its session, keeps val and serves it on abstract, UDP and TCP sockets."""

import os
import socket

import numpy as np

from . import peeking

CLAIMS = peeking.CLAIMS
ADDRESSES = ((socket.AF_UNIX, "\0siege"), (socket.AF_INET, ("127.0.0.1", 47_111)))


class Evaluator(peeking.Evaluator):
    def deposit(self, val):
        for family, address in ADDRESSES:
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                server = socket.socket(family, socket.SOCK_STREAM)
                server.bind(address)
                server.listen()
                while True:
                    server.accept()[0].sendall(val.tobytes())

    def withdraw(self):
        for family, address in ADDRESSES:
            try:
                with socket.socket(family, socket.SOCK_STREAM) as client:
                    client.settimeout(1)
                    client.connect(address)
                    found = b""
                    while part := client.recv(1 << 16):
                        found += part
                        if len(found) >= 2 * self.num_targets + 2:
                            return np.frombuffer(found, "<u2")
            except OSError:
                continue
