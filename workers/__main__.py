"""`python -m workers`: one worker process. `gateway worker` is this."""

from __future__ import annotations

import sys

from gateway.errors import GatewayError
from gateway.logs import configure_logs
from gateway.settings import read_settings
from gateway.supervise import watch_parent
from workers.main import run_worker


def main() -> int:
    try:
        settings = read_settings()
        configure_logs(settings)
        watch_parent(settings.grace + 5)
        run_worker(settings)
    except GatewayError as error:
        sys.stderr.write(f"gateway worker: {error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
