#!/usr/bin/env python3
"""An AI agent with rights to two tools behind a proxy, and not to a third.

It holds no credential. It asks the node's agent over a Unix socket; who it is the kernel says (user, control group, digest
of the file it runs). The key of its authorization stays in the TPM. For each request it has a proof made over that very
request, which the proxy's guard looks at before the tool sees anything. Standard library only.
"""

import argparse
import base64
import hashlib
import http.client
import json
import socket
import sys


def ask(path, request):
    """One question to the node's agent, one answer: a JSON object a line."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(connection.makefile().readline())
    if "error" in answer:
        raise SystemExit(f"refused by the node's agent: {answer['error']}")
    return answer


def text(value):
    """A text of deterministic CBOR."""
    data = value.encode()
    head = bytes([0x60 | len(data)]) if len(data) < 24 else bytes([0x78, len(data)])
    return head + data


def digest(method, authority, path, body):
    """What the proof is over: docs/protocol.md, section 6."""
    members = [text("touchstone-request/1"), text(method), text(authority), text(path)]
    body = b"\x58\x20" + hashlib.sha256(body).digest()
    return hashlib.sha256(b"\x85" + b"".join(members) + body).hexdigest()


def url(data):
    """base64 of the socket as base64url of the header."""
    return base64.urlsafe_b64encode(base64.b64decode(data)).rstrip(b"=").decode()


def call(args, tool):
    """One request to a tool: proof first, then the request that it is over."""
    path = f"/{tool}"
    proven = ask(args.socket, {
        "op": "workload-present",
        "label": args.label,
        "audience": args.audience,
        "request": digest("GET", args.proxy, path, b""),
        "action": "execute",
        "resource": f"tools/{tool}",
    })
    host, _, port = args.proxy.partition(":")
    connection = http.client.HTTPConnection(host, int(port or 80), timeout=10)
    connection.request("GET", path, headers={
        "Authorization": f"Touchstone {url(proven['authorization'])}",
        "Touchstone-Proof": url(proven["proof"]),
    })
    answer = connection.getresponse()
    return answer.status, answer.getheader("Touchstone-Reason") or answer.read(200).decode(errors="replace").strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", default="/run/touchstone/workload.sock", help="the node agent's socket for workloads")
    parser.add_argument("--proxy", default="127.0.0.1:8080", help="host:port of the proxy, as it is named there")
    parser.add_argument("--audience", default="tools", help="the id of the proxy's guard")
    parser.add_argument("--label", default="ai-agent", help="the label of the rule in agent.toml")
    args = parser.parse_args()
    held = ask(args.socket, {
        "op": "workload",
        "label": args.label,
        "scopes": ["execute:tools/search", "execute:tools/mail"],
    })
    print(f"authorized as {held['subject']}, key in: {held['key_kind']}")
    failed = False
    for tool, expected in [("search", 200), ("mail", 200), ("payments", 403)]:
        status, said = call(args, tool)
        failed |= status != expected
        print(f"{tool}: {status} {said}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
