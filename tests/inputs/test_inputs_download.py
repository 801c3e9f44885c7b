import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from omnitune.errors import MediaError, MediaRefusedError
from omnitune.inputs import download as downloads
from omnitune.inputs.download import download, is_public
from omnitune.inputs.image import load_image
from omnitune.inputs.policy import DEFAULT_POLICY, MediaPolicy

LOCAL = MediaPolicy(allow_private_addresses=True, max_bytes=1000, timeout=10)


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str]] = []

    def do_GET(self):
        self.asked.append((self.path, self.headers["Host"]))
        getattr(self, "serve_" + self.path[1:].partition("?")[0].partition("/")[0].replace("%C3%BC", "ue"))()

    def serve_ok(self, content=b"content", **headers):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    serve_ue = serve_ok

    def serve_large(self):
        self.serve_ok(b"x" * 1001)

    def serve_exact(self):
        self.serve_ok(b"x" * 1000)

    def serve_endless(self):
        """No length, and more than is wanted."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for _ in range(1000):
                self.wfile.write(b"x" * 100_000)
        except OSError:
            pass

    def serve_short(self):
        self.send_response(200)
        self.send_header("Content-Length", "500")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        self.close_connection = True

    def drip(self, with_header):
        self.close_connection = True
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" if with_header else b"HTTP/1.1 200 ")
            for _ in range(100):
                time.sleep(0.05)
                self.wfile.write(b"x")
        except OSError:
            pass

    def serve_slowbody(self):
        self.drip(with_header=True)

    def serve_slowheader(self):
        self.drip(with_header=False)

    def redirect(self, to):
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def serve_loop(self):
        self.redirect("/loop")

    def serve_relative(self):
        self.redirect("ok?after=1")

    def serve_private(self):
        self.redirect("http://10.0.0.1/secret")

    def serve_tofile(self):
        self.redirect("file:///etc/passwd")

    def serve_gone(self):
        self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    monkeypatch.setattr(Answers, "asked", [])
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return Answers.asked


def test_private_addresses_are_refused_by_default(server, asked):
    with pytest.raises(MediaRefusedError, match=r"127\.0\.0\.1.*not a public address.*allow_private_addresses=False"):
        download(f"{server}/ok", DEFAULT_POLICY)
    assert not asked


def test_downloads_where_private_addresses_are_allowed(server, asked):
    assert download(f"{server}/ok?a=1&b=%20", LOCAL) == b"content"
    assert asked == [("/ok?a=1&b=%20", server.removeprefix("http://"))]


def test_a_name_with_several_addresses_uses_one_that_answers(server):
    assert download(server.replace("127.0.0.1", "localhost") + "/ok", LOCAL) == b"content"


@pytest.mark.parametrize("host", ["[2606:4700::abcd]", "[2606:4700::1111]"])
def test_a_host_may_be_an_ipv6_address(server, asked, monkeypatch, host):
    local, connected = downloads.socket.create_connection, []

    def connect(address, timeout):
        connected.append(address)
        return local(("127.0.0.1", int(server.rpartition(":")[2])), timeout=timeout)

    monkeypatch.setattr(downloads.socket, "create_connection", connect)
    assert download(f"http://{host}:8080/ok", DEFAULT_POLICY) == b"content"
    assert connected == [(host.strip("[]"), 8080)]
    assert asked == [("/ok", f"{host}:8080")]


def test_the_address_that_was_checked_is_the_one_connected_to(server, monkeypatch):
    """A name that leads elsewhere the second time it is asked gains nothing."""
    port = int(server.rpartition(":")[2])
    resolved, connected = [], []

    def resolve(host, *args, **kwargs):
        resolved.append(host)
        address = "8.8.8.8" if len(resolved) == 1 else "127.0.0.1"
        return [(downloads.socket.AF_INET, downloads.socket.SOCK_STREAM, 6, "", (address, 0))]

    def connect(address, timeout):
        connected.append(address)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(downloads.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(downloads.socket, "create_connection", connect)
    with pytest.raises(MediaError, match="cannot be fetched: refused"):
        download(f"http://rebinding.example:{port}/ok", DEFAULT_POLICY)
    assert resolved == ["rebinding.example"]
    assert connected == [("8.8.8.8", port)]


def test_letters_with_accents_are_escaped(server, asked):
    assert download(f"{server}/ü", LOCAL) == b"content"
    assert asked[0][0] == "/%C3%BC"


def test_a_redirect_is_followed(server, asked):
    assert download(f"{server}/relative", LOCAL) == b"content"
    assert [path for path, _ in asked] == ["/relative", "/ok?after=1"]


def test_a_redirect_to_a_private_address_is_refused(server, monkeypatch):
    monkeypatch.setattr(downloads, "is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(MediaRefusedError, match=r"http://10\.0\.0\.1/secret: 10\.0\.0\.1 leads to 10\.0\.0\.1"):
        download(f"{server}/private", DEFAULT_POLICY)


def test_a_redirect_to_a_file_is_refused(server):
    with pytest.raises(MediaRefusedError, match=r"file:///etc/passwd: expected an http or https address, got 'file'"):
        download(f"{server}/tofile", LOCAL)


def test_too_many_redirects(server, asked):
    with pytest.raises(MediaRefusedError, match="/loop: more than 3 redirects"):
        download(f"{server}/loop", LOCAL)
    assert len(asked) == 4


def test_too_large_by_its_announced_length(server):
    with pytest.raises(MediaRefusedError, match=r"/large: 1001 bytes, more than the media policy's max_bytes=1000"):
        download(f"{server}/large", LOCAL)
    assert len(download(f"{server}/exact", LOCAL)) == 1000


def test_too_large_without_an_announced_length(server):
    with pytest.raises(MediaRefusedError, match=r"/endless: more than the media policy's max_bytes=1000"):
        download(f"{server}/endless", LOCAL)


def test_fewer_bytes_than_announced(server):
    with pytest.raises(MediaError, match=r"/short: cannot be fetched: IncompleteRead\(10 bytes read, 490 more"):
        download(f"{server}/short", LOCAL)


@pytest.mark.parametrize("part", ["slowbody", "slowheader"])
def test_a_server_that_drips_bytes_meets_the_timeout(server, part):
    started = time.monotonic()
    with pytest.raises(MediaError, match=rf"/{part}: took longer than the media policy's timeout=0.3 s"):
        download(f"{server}/{part}", MediaPolicy(allow_private_addresses=True, timeout=0.3))
    assert time.monotonic() - started < 3


def test_an_answer_that_is_an_error(server):
    with pytest.raises(MediaError, match="/gone: the server answered 404 Not Found"):
        download(f"{server}/gone", LOCAL)


def test_nobody_listens():
    with pytest.raises(MediaError, match=r"http://127\.0\.0\.1:1/a\.png: cannot be fetched: .*refused"):
        download("http://127.0.0.1:1/a.png", LOCAL)


def test_what_is_downloaded_and_is_no_image_is_named(server):
    with pytest.raises(MediaError, match=r"http://127\.0\.0\.1:\d+/ok: not an image"):
        load_image(f"{server}/ok", LOCAL)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a.png", "http:///a.png", "a.png"])
def test_only_http_and_https(url):
    with pytest.raises(MediaRefusedError, match="expected an http or https address"):
        download(url, LOCAL)


@pytest.mark.parametrize(
    "url",
    ["http://[broken/a.png", "http://127.0.0.1:99999/a.png", "http://127.0.0.1:x/a.png", f"http://{'a' * 70}.org/"],
)
def test_malformed_addresses_are_media_errors_that_name_them(url):
    with pytest.raises(MediaError) as caught:
        download(url, LOCAL)
    assert str(caught.value).startswith(url)


def test_urls_and_hosts_can_be_forbidden():
    with pytest.raises(MediaRefusedError, match="allow_urls=False"):
        download("http://127.0.0.1/", MediaPolicy(allow_urls=False))
    with pytest.raises(MediaRefusedError, match=r"127\.0\.0\.1 is not among the media policy's allowed_hosts"):
        download("http://127.0.0.1/", MediaPolicy(allowed_hosts=frozenset({"example.org"})))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "fec0::1", "::7f00:1", "192.0.0.8",
        "192.88.99.1", "3fff::1", "2001:0:7f00:1::",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """Port of an https server on this machine, and its certificate, which is for `localhost` alone."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *args: None  # clients that hang up are the point
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server.server_port, certificate
    server.shutdown()
    server.server_close()
    thread.join()


def test_https_is_checked_against_the_name_that_was_asked_for(secure, monkeypatch):
    port, certificate = secure
    with pytest.raises(
        MediaError, match=f"https://localhost:{port}/ok: cannot be fetched: .*CERTIFICATE_VERIFY_FAILED"
    ):
        download(f"https://localhost:{port}/ok", LOCAL)
    default = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda: default(cafile=certificate))
    assert download(f"https://localhost:{port}/ok", LOCAL) == b"content"
    with pytest.raises(MediaError, match="IP address mismatch"):
        download(f"https://127.0.0.1:{port}/ok", LOCAL)


def test_an_address_that_is_none_is_named():
    with pytest.raises(MediaError, match="not a valid address"):
        download("http://host:port/a.png", DEFAULT_POLICY)


class Proxy(BaseHTTPRequestHandler):
    """Forwards requests and tunnels to the port that a test names, whatever address it was asked for."""

    asked: list[tuple[str, str, str | None]] = []
    to = 0

    def note(self):
        self.asked.append((self.command, self.path, self.headers["Proxy-Authorization"]))

    def do_GET(self):
        self.note()
        with socket.create_connection(("127.0.0.1", self.to)) as onward:
            path = "/" + self.path.split("/", 3)[3]
            onward.sendall(f"GET {path} HTTP/1.1\r\nHost: {self.headers['Host']}\r\nConnection: close\r\n\r\n".encode())
            while block := onward.recv(65536):
                self.wfile.write(block)
        self.close_connection = True

    def do_CONNECT(self):
        self.note()
        if self.to < 0:
            self.send_error(403)
            return
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", self.to)) as onward:
            back = threading.Thread(target=self.pump, args=(onward, self.connection), daemon=True)
            back.start()
            self.pump(self.connection, onward)
            back.join(1)
        self.close_connection = True

    @staticmethod
    def pump(source, sink):
        try:
            while block := source.recv(65536):
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def proxy(monkeypatch, server, asked):
    monkeypatch.setattr(Proxy, "asked", [])
    monkeypatch.setattr(Proxy, "to", int(server.rpartition(":")[2]))
    made = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("http_proxy", f"http://us%40er:secret@127.0.0.1:{made.server_port}")
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{made.server_port}")
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def resolves(monkeypatch, **names):
    """Names that resolve, and to what; a proxy's own address stays."""
    real = socket.getaddrinfo

    def resolve(host, port, *args, **kwargs):
        if host == "127.0.0.1":
            return real(host, port, *args, **kwargs)
        if host.replace(".", "_") not in names:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (names[host.replace(".", "_")], port or 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_proxy_is_asked_for_the_address_that_was_checked(proxy, asked, monkeypatch):
    resolves(monkeypatch, pictures_example="8.8.8.8")
    assert download("http://pictures.example/ok?a=1", DEFAULT_POLICY) == b"content"
    assert Proxy.asked == [("GET", "http://8.8.8.8:80/ok?a=1", "Basic dXNAZXI6c2VjcmV0")]
    assert asked == [("/ok?a=1", "pictures.example")]


def test_a_proxy_does_not_lead_into_private_networks(proxy, monkeypatch):
    resolves(monkeypatch, intranet_example="10.0.0.7")
    with pytest.raises(MediaRefusedError, match=r"intranet\.example leads to 10\.0\.0\.7, which is not a public"):
        download("http://intranet.example/ok", DEFAULT_POLICY)
    with pytest.raises(MediaRefusedError, match="unknown.example does not resolve on this machine, and the proxy may"):
        download("http://unknown.example/ok", DEFAULT_POLICY)
    assert not Proxy.asked
    known = MediaPolicy(allowed_hosts=frozenset({"unknown.example"}))
    assert download("http://unknown.example/ok", known) == b"content"
    assert Proxy.asked[0][1] == "http://unknown.example:80/ok"


def test_https_goes_through_a_tunnel_of_the_proxy(proxy, secure, monkeypatch):
    port, certificate = secure
    default = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda: default(cafile=certificate))
    monkeypatch.setattr(Proxy, "to", port)
    resolves(monkeypatch, localhost="8.8.8.8")
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: False)
    assert download("https://localhost:8443/ok", DEFAULT_POLICY) == b"content"
    assert Proxy.asked == [("CONNECT", "8.8.8.8:8443", None)]
    monkeypatch.setattr(Proxy, "to", -1)
    with pytest.raises(MediaError, match=r"localhost:8443/ok: cannot be fetched: the proxy 127\.0\.0\.1 answered 403"):
        download("https://localhost:8443/ok", DEFAULT_POLICY)


def test_hosts_that_need_no_proxy_are_asked_themselves(proxy, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1,.example")
    assert download(f"{server}/ok", LOCAL) == b"content"
    assert not Proxy.asked


def test_a_proxy_that_cannot_be_used_is_named(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(MediaError, match=r"socks5://127\.0\.0\.1:1080: expected a proxy such as http://host:3128"):
        download("http://8.8.8.8/ok", DEFAULT_POLICY)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(MediaError, match=r"the proxy 127\.0\.0\.1:1 does not answer"):
        download("http://8.8.8.8/ok", DEFAULT_POLICY)
