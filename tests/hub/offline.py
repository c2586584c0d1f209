"""What huggingface_hub and transformers make of a cache without a network; prints it as JSON.

HF_HUB_CACHE=… HF_HUB_OFFLINE=1 python offline.py org/name [transformers]
"""

from __future__ import annotations

import json
import sys

from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache


def main(model: str, *more: str) -> None:
    info = scan_cache_dir()
    found: dict[str, object] = {
        "snapshot": snapshot_download(model, local_files_only=True),
        "config": try_to_load_from_cache(model, "config.json"),
        "warnings": [str(warning) for warning in info.warnings],
        "incomplete": len(info.incomplete_files),
        "refs": sorted(ref for repo in info.repos for ref in repo.refs),
    }
    if "transformers" in more:
        from transformers import AutoConfig, AutoTokenizer

        found["hidden"] = AutoConfig.from_pretrained(model).hidden_size
        found["tokens"] = AutoTokenizer.from_pretrained(model)("hello world")["input_ids"]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
