"""The options of `llmchatbot drill`; apart from the rest, because every command's parser is made at each start."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Break what the product promises to survive, and check that nothing was lost."
    parser.add_argument("--list", action="store_true", help="show the plans")
    parser.add_argument("--plan", action="append", metavar="NAME", help="only this plan; may be given several times")
    parser.add_argument("--size", choices=["short", "full"], default="short", help="full: hours, with the real leases")
    parser.add_argument("--count", type=int, help="how many cuts, kills, stops … instead of what the size says")
    parser.add_argument("--seed", default="1", help="the same seed makes the same choices")
    parser.add_argument("--against", metavar="URL", default="", help="run the client-side plans on a deployment")
    parser.add_argument("--model", default="", help="with --against: the model to ask, e.g. scripted")
