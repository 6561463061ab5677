"""The rules of infra/adr/0001 left out one at a time. A mutant changes the code of functions in their place, so that
whoever has imported them runs the changed one.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule by its number, the module it stands in, and the text that leaves it out. seed: of a schedule in which it
    was caught when last looked for."""

    rule: int
    module: str
    old: str
    new: str
    seed: int = 0


MUTANTS = {
    "a rejected design exists": Mutant(
        1, "streams.decide.judge",
        'entry.position if verdict.verdict == "accept" else NOWHERE',
        "entry.position",
        seed=1,
    ),
    "a design is compared with its own revisions": Mutant(
        1, "streams.decide.judge",
        'key == ("design", record.id) or ',
        "",
        seed=1,
    ),
    "a design is compared with items made from it": Mutant(
        1, "streams.decide.judge",
        " or _made_from(now, key, record.id)",
        "",
        seed=3,
    ),
    "a withdrawal ends nothing": Mutant(
        1, "streams.decide.judge",
        "now.put(key, Thing(src=record.src))",
        "now.put(key, replace(before or Thing(0), src=record.src))",
        seed=1,
    ),
    "the threshold is exclusive": Mutant(
        2, "streams.decide.judge",
        "similarity >= math.ceil(",
        "similarity > math.ceil(",
        seed=4,
    ),
    "windows are not looked at": Mutant(
        2, "streams.decide.index",
        "for vector in picture.vectors()",
        "for vector in picture.vectors()[:1]",
    ),
    "ties go to the youngest": Mutant(
        2, "streams.decide.judge",
        "(-item[1][0], order_of(item[0]))",
        "(-item[1][0], -order_of(item[0])[0])",
        seed=3,
    ),
    "vectors are compared off the lattice": Mutant(
        3, "streams.decide.rows",
        "self._vectors[-1][into] = vectors[start : start + count]",
        "part = vectors[start : start + count].astype(np.float32)\n"
        "            self._vectors[-1][into] = 2048 * part / np.linalg.norm(part, axis=1, keepdims=True)",
        seed=1,
    ),
    "nothing is repeated": Mutant(
        4, "streams.decide.judge",
        'case "design" if before is not None and before.word and',
        'case "design" if False and before is not None and',
        seed=5,
    ),
    "a superseded revision goes on existing": Mutant(
        4, "streams.decide.judge",
        "self._at[before.row] = None",
        "pass",
        seed=1,
    ),
    "a redelivered record takes effect": Mutant(
        5, "streams.decide.judge",
        "before.src >= record.src):\n",
        "before.src > record.src):\n",
        seed=19,
    ),
    "a delete forgets the source offset": Mutant(
        5, "streams.decide.judge",
        "now.put(key, Thing(src=record.src))",
        "now.put(key, Thing(src=-1))",
        seed=48,
    ),
    "appends are not waited for": Mutant(
        5, "streams.kafka.agents",
        'await patiently("embed", "kafka", lambda t=topic, b=batch: self._producer.append(t, b))',
        'asyncio.ensure_future(patiently("embed", "kafka", lambda t=topic, b=batch: self._producer.append(t, b)))',
        seed=2,
    ),
    "batches are finished as they come": Mutant(
        5, "streams.kafka.delivery",
        "            batch = await self._batches.get()\n            with contextlib.suppress(Stale):\n",
        "            batch = await self._batches.get()\n"
        "            if batch.preparing and not batch.preparing.done() and not self._batches.empty():\n"
        "                self._batches.put_nowait(batch)\n"
        "                await asyncio.sleep(0.01)\n"
        "                continue\n"
        "            with contextlib.suppress(Stale):\n",
        seed=43,
    ),
    "an offset is acknowledged before its effects": Mutant(
        9, "streams.kafka.delivery",
        "await self._work.finish(batch.whole, await batch.preparing)",
        "asyncio.ensure_future(self._work.finish(batch.whole, await batch.preparing))",
    ),
    "what a fetch passed over is not looked for": Mutant(
        9, "streams.kafka.delivery",
        "if message.offset > expected and not",
        "if False and not",
    ),
    "a batch does not see its own records": Mutant(
        6, "streams.decide.memory",
        "                self._add((entry.position, entry.record) for entry in entries)\n",
        "                pass\n",
        seed=3,
    ),
    "the tail is not searched": Mutant(
        6, "streams.decide.index",
        "self._tail(kind, encoder, queries.shape[1]).search(",
        "Rows(queries.shape[1]).search(",
        seed=1,
    ),
    "the body is not searched": Mutant(
        6, "streams.decide.index",
        "if not self._in_memory and self.sealed:",
        "if False:",
        seed=1,
    ),
    "rows leave the tail before they are written": Mutant(
        6, "streams.decide.sealing",
        "        self._state.reach = max(",
        "        self._index.seal(below)\n        self._state.reach = max(",
        seed=17,
    ),
    "a broken seal is taken for a whole one": Mutant(
        6, "streams.decide.sealing",
        "        except Retryable:\n            self._index.doubt()\n            raise",
        "        except Retryable:\n            return",
        seed=52,
    ),
    "hits are never too few": Mutant(
        7, "streams.decide.judge",
        "    if floor is not None and (",
        "    if False and (",
        seed=3,
    ),
    "a hit counts whether its row lives or not": Mutant(
        7, "streams.decide.judge",
        "return self._at[place] if place in self._at else self._world.at(place)",
        "return self._world.at(place) or self._at.get(place)",
        seed=1,
    ),
    "the last policy holds for the whole batch": Mutant(
        8, "streams.decide.stage",
        'if entry.record.kind == "config":\n            cuts +=',
        'if entry.record.kind == "config" and not i:\n            cuts +=',
        seed=7,
    ),
    "vectors of two encoders are compared": Mutant(
        8, "streams.decide.index",
        "groups[key_of(record)[0], record.encoder].append(i)",
        "groups[key_of(record)[0], min((name for _, name in self._tails), default=record.encoder)].append(i)",
        seed=19,
    ),
    "a new owner does not read what was said": Mutant(
        9, "streams.decide.stage",
        "                await self._read_ledger()\n",
        "",
    ),
    "a new owner does not complete what was done": Mutant(
        9, "streams.decide.stage",
        "if first <= self.next:",
        "self._memory.head.next = max(first, self.next)\n        if True:",
    ),
    "the checkpoint is written before the verdicts": Mutant(
        9, "streams.decide.stage",
        '            with metrics.stage_seconds.labels("decide", "publish").time():\n'
        "                await self._publish(verdicts)",
        "            await self._in_thread(self._memory.commit, entries, outcome)\n"
        "            await self._publish(verdicts)\n"
        "            return",
        seed=3,
    ),
    "an earlier, different verdict does not bind": Mutant(
        9, "streams.decide.stage",
        "if offset < first and value != own_value:",
        "if False:",
        seed=375,
    ),
    "the last of two verdicts counts": Mutant(
        9, "streams.decide.memory",
        "self.said.setdefault(named.position, {}).setdefault(named.design_id, value)",
        "self.said.setdefault(named.position, {})[named.design_id] = value",
        seed=375,
    ),
    "what is read of the ledger is forgotten too early": Mutant(
        9, "streams.decide.memory",
        "if not self.said:  # else",
        "if True:  # else",
        seed=383,
    ),
    "all pictures of a record have one row": Mutant(
        10, "streams.decide.state",
        "TailRow(row_key(self._shard, place, n)",
        "TailRow(row_key(self._shard, place)",
        seed=1,
    ),
    "rows that live are collected": Mutant(
        10, "streams.decide.state",
        "self._garbage += [(row_key(self._shard, thing.row, n)",
        "self._garbage += [(row_key(self._shard, max(self._rows, default=0), n)",
    ),
    "rows are never collected": Mutant(
        10, "streams.decide.state",
        "if position_of(thing.row) < self.reach:",
        "if False:",
        seed=9,
    ),
    "two owners may write one checkpoint": Mutant(
        11, "streams.decide.checkpoint",
        "        return not self.is_broken and (row[0] if row else 0) == self._writes",
        "        return True",
        seed=67,
    ),
    "the tail is not in the checkpoint": Mutant(
        11, "streams.decide.checkpoint",
        '            self._insert("tail", tail)\n',
        "",
    ),
    "nothing is revised": Mutant(
        13, "streams.decide.judge",
        "if most and not context.is_closed:",
        "if False:",
        seed=1,
    ),
}  # fmt: skip


def source_of(mutant: Mutant) -> str:
    """The source of the module with the rule left out."""
    source = Path(str(importlib.import_module(mutant.module).__file__)).read_text()
    assert source.count(mutant.old) == 1, f"{mutant.module} has changed: {mutant.old!r} is not in it once"
    return source.replace(mutant.old, mutant.new)


@contextmanager
def left_out(mutant: Mutant) -> Iterator[None]:
    """The rule is left out."""
    module = importlib.import_module(mutant.module)
    changed = compile(source_of(mutant), str(module.__file__), "exec")
    before: list[tuple[FunctionType, CodeType]] = []
    for function, code in _pairs(module, changed):
        if code != function.__code__:
            before.append((function, function.__code__))
            function.__code__ = code
    assert before, "nothing was changed"
    try:
        yield
    finally:
        for function, code in before:
            function.__code__ = code


def _pairs(module: ModuleType, changed: CodeType) -> Iterator[tuple[FunctionType, CodeType]]:
    """The functions and methods of a module, each with its code in the changed source."""
    codes = {code.co_qualname: code for code in _codes(changed)}
    for owner in [module, *(value for value in vars(module).values() if isinstance(value, type))]:
        for value in vars(owner).values():
            function = _function(value)
            if function is not None and function.__module__ == module.__name__ and function.__qualname__ in codes:
                yield function, codes[function.__qualname__]


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _function(value: Any) -> FunctionType | None:
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__wrapped__", value)
    return value if isinstance(value, FunctionType) else None
