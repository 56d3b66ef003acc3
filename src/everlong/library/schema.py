"""The tables of a library's database, and the numbers of their formats."""

from __future__ import annotations

FORMAT = 2
"""That of a store that may hold digests in bfloat16."""
FORMATS = (1, FORMAT)
"""Those that this version opens; one of format 1 becomes one of format 2 when a session is added to it."""
TABLES = {"sessions": "id"} | dict.fromkeys(
    ("volumes", "sources", "marks", "lengths", "places", "lines", "dropped", "pins", "forgotten", "recall"), "session"
)
"""What an archive holds of a session, and the column that names it."""
SCHEMA = {
    "facts": """CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)""",
    "sessions": """CREATE TABLE IF NOT EXISTS sessions (
        id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
        model TEXT NOT NULL, fingerprint TEXT NOT NULL, method TEXT NOT NULL,
        tokens INTEGER NOT NULL, blocks INTEGER NOT NULL, row_bytes INTEGER NOT NULL, state TEXT)""",
    "volumes": """CREATE TABLE IF NOT EXISTS volumes (
        session TEXT NOT NULL, place INTEGER NOT NULL, file TEXT NOT NULL,
        first INTEGER NOT NULL, end INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (session, place))""",
    "sources": """CREATE TABLE IF NOT EXISTS sources (
        session TEXT NOT NULL, place INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
        first INTEGER NOT NULL, done INTEGER NOT NULL, PRIMARY KEY (session, place))""",
    "marks": """CREATE TABLE IF NOT EXISTS marks (
        session TEXT NOT NULL, source INTEGER NOT NULL, token INTEGER NOT NULL, chars INTEGER NOT NULL,
        PRIMARY KEY (session, source, token)) WITHOUT ROWID""",
    "lengths": """CREATE TABLE IF NOT EXISTS lengths (
        session TEXT NOT NULL, token INTEGER NOT NULL, data TEXT NOT NULL, PRIMARY KEY (session, token))""",
    "dropped": """CREATE TABLE IF NOT EXISTS dropped (
        session TEXT NOT NULL, block INTEGER NOT NULL, PRIMARY KEY (session, block)) WITHOUT ROWID""",
    "pins": """CREATE TABLE IF NOT EXISTS pins (
        session TEXT NOT NULL, first INTEGER NOT NULL, end INTEGER NOT NULL, always INTEGER NOT NULL,
        keep INTEGER NOT NULL, PRIMARY KEY (session, first, end)) WITHOUT ROWID""",
    "forgotten": """CREATE TABLE IF NOT EXISTS forgotten (
        session TEXT NOT NULL, first INTEGER NOT NULL, end INTEGER NOT NULL, filler INTEGER NOT NULL,
        wiped INTEGER NOT NULL, PRIMARY KEY (session, first, end)) WITHOUT ROWID""",
    "places": """CREATE TABLE IF NOT EXISTS places (
        session TEXT NOT NULL, source INTEGER NOT NULL, start INTEGER NOT NULL, kind TEXT NOT NULL,
        level INTEGER NOT NULL, title TEXT NOT NULL, PRIMARY KEY (session, source, start, kind)) WITHOUT ROWID""",
    "lines": """CREATE TABLE IF NOT EXISTS lines (
        session TEXT NOT NULL, source INTEGER NOT NULL, data TEXT NOT NULL, PRIMARY KEY (session, source))""",
    "recall": """CREATE TABLE IF NOT EXISTS recall (
        session TEXT NOT NULL, place INTEGER NOT NULL, file TEXT NOT NULL, first INTEGER NOT NULL,
        end INTEGER NOT NULL, row_bytes INTEGER NOT NULL, PRIMARY KEY (session, place))""",
    "states": """CREATE TABLE IF NOT EXISTS states (
        session TEXT PRIMARY KEY, state TEXT NOT NULL, tokens INTEGER NOT NULL, blocks INTEGER NOT NULL)""",
}
"""How each table is made."""
