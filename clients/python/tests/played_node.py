"""A node that is played: it gives the answers it was told to, so that each can be had."""

import json
import socket
import threading
import time

#: After an answer: keep the connection, say nothing more.
HANG = object()


class Later:
    """An answer that waits for an event, while other connections are served."""

    def __init__(self, event, answer):
        self.event = event
        self.answer = answer


class Then:
    """An answer, and an event that has happened when it is out."""

    def __init__(self, event, answer):
        self.event = event
        self.answer = answer


class PlayedNode:
    """Answers each request with the next of ``answers``; the last one stays.

    An answer is ``(status, fields)``, ``(status, content, headers)``, raw bytes, ``None`` (the
    connection ends), :data:`HANG`, :class:`Later`, :class:`Then`,
    or a list of bytes that go out one by one, slowly.
    """

    def __init__(self):
        self.answers = []
        self.asked = []
        #: The methods and headers of the requests, with names in lower case.
        self.heads = []
        self.connections = 0
        #: Connections that nobody reads from, before the others.
        self.ignored = 0
        self._kept = []
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self.url = f"http://{self.address}"
        self._lock = threading.Lock()
        self._ended = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self._stopped.set()
        self._listener.close()
        for each in self._kept:
            each.close()

    @property
    def paths(self):
        return [path for path, _ in self.asked]

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._stopped.is_set():
                return connection.close()
            self.connections += 1
            if self.connections <= self.ignored:
                self._kept.append(connection)
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as incoming:
            try:
                while self._answer(connection, incoming):
                    pass
            except OSError:
                pass
        self._ended.release()

    def wait_for_an_end(self):
        """Waits until one more connection is closed."""
        assert self._ended.acquire(timeout=60), "the connection stays open"

    def _answer(self, connection, incoming):
        first = incoming.readline().decode()
        if not first:
            return False
        method, path = first.split(" ")[:2]
        head = {"method": method}
        for line in iter(incoming.readline, b"\r\n"):
            name, value = line.decode().split(":", 1)
            head[name.lower()] = value.strip()
        body = incoming.read(int(head.get("content-length", 0)))
        is_json = head.get("content-type") == "application/json"
        with self._lock:
            self.heads.append(head)
            text = body.decode() if body else None
            self.asked.append((path, json.loads(text) if text and is_json else text))
            answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        return self._send(connection, answer)

    def _send(self, connection, answer):
        if isinstance(answer, Later):
            answer.event.wait()
            return self._send(connection, answer.answer)
        if isinstance(answer, Then):
            goes_on = self._send(connection, answer.answer)
            answer.event.set()
            return goes_on
        if answer is None:
            return False
        if answer is HANG:
            self._stopped.wait()
            return False
        if isinstance(answer, bytes):
            connection.sendall(answer)
            return False
        if isinstance(answer, list):
            while not self._stopped.is_set():
                connection.sendall(answer[0])
                answer = answer[1:] or answer
                time.sleep(0.05)
            return False
        status, content = answer[:2]
        headers = answer[2] if len(answer) > 2 else {"Content-Type": "application/json"}
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        headers = {"Content-Length": len(content), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"HTTP/1.1 {status} Played\r\n{head}\r\n".encode() + content)
        return True
