"""Conversations that chat templates are tried with."""

from __future__ import annotations

from typing import Any

TALK: list[dict[str, Any]] = [
    {"role": "user", "content": " Is there a Jinja “template” for <this>?\n"},
    {"role": "assistant", "content": "There is.\n\n<think>\nhm\n</think>\n\nNo: {{ 7 * 7 }} 🦉 "},
    {"role": "user", "content": "Why?"},
]
SYSTEM: dict[str, Any] = {"role": "system", "content": "  Be brief. \n"}
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "Multiply 6 by 7."},
    {
        "role": "assistant",
        "content": None,
        "reasoning": "I need the tool.",
        "tool_calls": [
            {"type": "function", "function": {"name": "mul", "arguments": {"x": 6, "y": 7.5}}}
        ],
    },
    {"role": "tool", "content": "42"},
]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "mul",
            "description": "Multiplies; <b>é</b>.",
            "parameters": {"type": "object", "properties": {"x": {"type": "number"}}},
        },
    }
]
