"""A proxy in front of a node. It can lose the answers to requests that the node has executed."""

import socket
import threading


class LosingProxy:
    """Passes requests on to the node at ``url``.

    ``loses`` decides for each request, from its method and path, whether the answer is lost: the
    connection ends when the answer has arrived here. ``lost`` lists the heads of those requests,
    and ``passed`` those of the others.
    """

    def __init__(self, url):
        self._port = int(url.rsplit(":", 1)[1])
        self.loses = lambda method, path: False
        self.lost = []
        self.passed = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            with connection, socket.create_connection(("127.0.0.1", self._port)) as node:
                incoming, answers = connection.makefile("rb"), node.makefile("rb")
                while self._pass_on(connection, incoming, node, answers):
                    pass
        except OSError:
            pass

    def _pass_on(self, connection, incoming, node, answers):
        request = message(incoming)
        if not request:
            return False
        node.sendall(request)
        answer = message(answers)
        head = request.split(b"\r\n\r\n")[0].decode()
        if self.loses(*head.split(" ")[:2]):
            self.lost.append(head)
            return False
        self.passed.append(head)
        connection.sendall(answer)
        return bool(answer)


def message(incoming):
    """The next request or answer, as bytes; none if the connection has ended."""
    head, length = b"", 0
    for line in iter(incoming.readline, b""):
        head += line
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
        if line == b"\r\n":
            return head + incoming.read(length)
    return b""
