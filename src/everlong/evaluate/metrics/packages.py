"""The packages that the official scorers use."""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import Any

from everlong.errors import ConfigError


def package(name: str) -> Any:
    """The module `name` of a package in the extra `eval`; ConfigError if it is not installed.

    It is imported without warnings: fuzzywuzzy gives one where it takes difflib, as it does in the official scorer.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        needs = "needs the extra everlong[eval]: pip install 'everlong[eval]'"
        raise ConfigError(f"{name.partition('.')[0]}: not installed; this metric {needs}") from None


def chinese_words(text: str) -> list[str]:
    """The words of a Chinese text as jieba cuts it, punctuation and spaces among them.

    >>> chinese_words("我在北京。")
    ['我', '在', '北京', '。']
    """
    jieba = package("jieba")
    jieba.setLogLevel(logging.WARNING)
    return list(jieba.cut(text, cut_all=False))
