"""conf/schema.json, for editors that complete and check TOML: ``python -m relay.config.schema``."""

import json
import sys
from typing import Any

from relay.config.models import Config


def schema_text() -> str:
    """Return the JSON schema of the configuration file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Config.model_json_schema()
    schema = _untitled(schema) | {"title": "vpnmasq.toml"}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _untitled(node: Any) -> Any:
    """Leave out the titles that pydantic makes of the keys' names: they repeat them."""
    if isinstance(node, list):
        return [_untitled(item) for item in node]
    if isinstance(node, dict):
        return {
            key: _untitled(item) for key, item in node.items() if key != "title" or isinstance(item, dict)
        }
    return node


if __name__ == "__main__":
    sys.stdout.write(schema_text())
