"""Show all runs and sweeps of an outputs folder in a browser.

Serves on this machine alone, until Ctrl-C; it reads and never writes.
"""

from __future__ import annotations

import argparse
import errno
import signal
import sys
import threading
from pathlib import Path

PORTS_TRIED = 20
BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Start the dashboard and serve until Ctrl-C or SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m microlatent.dashboard", description=__doc__, allow_abbrev=False)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of runs and sweeps (default: outputs)")
    parser.add_argument("--port", type=int, default=8765, help="port; if it is taken, the next that is free (default: 8765)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1, this machine alone)")
    parser.add_argument(
        "--anyone-on-the-network",
        action="store_true",
        help="let other machines in, with --host: everybody who reaches it may read",
    )
    options = parser.parse_args(arguments)
    try:
        server = start(options.outputs, options.host, options.port, is_open=options.anyone_on_the_network)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    if options.anyone_on_the_network:
        print("warning: whoever reaches this address can read every run, without a password.", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=server.inventory.changes, daemon=True).start()  # reads everything once, before anybody asks
    try:
        print(f"dashboard of {server.root}: {server.url}  (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        print("\ndashboard stopped.")
    finally:
        server.server_close()
    return 0


def start(outputs: Path, host: str, port: int, *, is_open: bool = False):
    """Return a server that is bound to the first free port from ``port`` on.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    ValueError
        The address is not of this machine alone, and ``is_open`` does not allow that; or no port is free.
    """
    from microlatent.dashboard.server import Dashboard, is_loopback

    if not outputs.is_dir():
        raise FileNotFoundError(
            f"{outputs} is no folder. Name the outputs folder with --outputs; before the first run there is none."
        )
    if not is_loopback(host) and not is_open:
        raise ValueError(
            f"--host {host} would show every run to whoever reaches it. To look from another machine, forward the port: "
            f"ssh -L {port}:127.0.0.1:{port} <this machine>. If everybody may read, add --anyone-on-the-network."
        )
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}, but must lie between 0 (any free one) and 65535.")
    last = min(port + PORTS_TRIED, 65535)
    for candidate in range(port, last + 1):
        try:
            return Dashboard(outputs, host, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ValueError(
                    f"{host}:{candidate} cannot be served on: {error.strerror}. Choose another --host or --port."
                ) from error
    raise ValueError(f"ports {port} to {last} are all taken. Choose another with --port, or stop what holds them.")


if __name__ == "__main__":
    sys.exit(main())
