"""What a part of the check needs of the report that it writes into."""

from __future__ import annotations

from typing import Any, Protocol


class Reporter(Protocol):
    def put(self, name: str, value: Any) -> None: ...
