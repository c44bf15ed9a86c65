"""The traffic, the same for every gateway, and what counts as right."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from relay.demo.hosts import Host, together
from relay.demo.network import SERVER, STRANGER, WAN_ADDRESS

#: What every client chooses.
CALL_ID: Final = 1
#: Where the servers' own Call IDs begin; different, so that a mix-up cannot look right by chance.
_SERVER_IDS: Final = 0x2000
_OFFICE_IDS: Final = 0x6000

#: Echo requests of each call in the main part, and in each of the smaller ones.
PACKETS: Final = 100
_FEW: Final = 25
#: Seconds between two packets of a call.
_INTERVAL: Final = 0.01


@dataclass(frozen=True, slots=True)
class Check:
    """A row of the table."""

    key: str
    title: str


CALLS_UP: Final = Check("calls_up", "{clients} clients, all with Call ID 1, one server: calls up")
OWN_DATA: Final = Check("own_data", "  their data came back, each to its owner")
EXPOSED_UP: Final = Check("exposed_up", "outside caller to the private server: call up")
EXPOSED_DATA: Final = Check("exposed_data", "  its data came back")
STRANGER_OUT: Final = Check("stranger", "a stranger's GRE with valid Call IDs is kept out")
HANG_UP: Final = Check("hang_up", "hang-up is confirmed for the right call")
AGAIN: Final = Check("again", "the freed Call ID serves the next call: data back")
TWO_CALLS: Final = Check("two_calls", "two calls on one control connection: data back")
SPLIT: Final = Check("split", "control messages split over TCP segments: data back")
MERGED: Final = Check("merged", "several messages in one segment: data back")
INCOMING: Final = Check("incoming", "the server calls the client: data back")

CHECKS: Final = (
    CALLS_UP,
    OWN_DATA,
    EXPOSED_UP,
    EXPOSED_DATA,
    STRANGER_OUT,
    HANG_UP,
    AGAIN,
    TWO_CALLS,
    SPLIT,
    MERGED,
    INCOMING,
)


@dataclass(frozen=True, slots=True)
class Result:
    """How much of what was tried went right; ``wrong`` counts what should not have happened at all."""

    good: int
    wanted: int
    wrong: int = 0
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything went right, and nothing else happened."""
        return 0 < self.wanted == self.good and not self.wrong


Results = dict[Check, Result]


class Watcher(Protocol):
    """Who is told what goes on."""

    def doing(self, check: Check) -> None:
        """A check begins."""

    def moved(self, echoes: int, wanted: int) -> None:
        """So many of the echoes asked for came back so far."""

    def found(self, check: Check, result: Result) -> None:
        """A check is finished."""


class Contest:
    """One run of the traffic through the gateway that stands."""

    def __init__(self, hosts: dict[str, Host], watcher: Watcher) -> None:
        self._clients = [host for name, host in hosts.items() if name.startswith("client-")]
        self._server, self._office = hosts["server"], hosts["office"]
        self._caller, self._stranger = hosts["caller"], hosts["stranger"]
        self._watcher = watcher
        self.results: Results = {}

    async def run(self) -> Results:
        """Do everything in order."""
        await self._everyone("reset")
        await self._main_job()
        await self._strangers()
        await self._hang_up()
        await self._everyone("stop")
        await self._second_call()
        for check, how in ((SPLIT, {"split": True}), (MERGED, {"merged": True})):
            await self._unusual(check, how)
        await self._incoming_call()
        await self._everyone("reset")
        return self.results

    async def _main_job(self) -> None:
        """All clients call one server, and the outside caller the private server, at the same time."""
        self._watcher.doing(CALLS_UP)
        dialling = [(client, "dial", {"server": SERVER, "call_id": CALL_ID}) for client in self._clients]
        dialling.append((self._caller, "dial", {"server": WAN_ADDRESS, "call_id": CALL_ID}))
        *reports, callers = await together(dialling)
        self._found(CALLS_UP, _up(reports))
        self._found(EXPOSED_UP, _up([callers]))
        self._watcher.doing(OWN_DATA)
        *reports, callers = await self._exchange(*self._clients, self._caller, packets=PACKETS)
        self._found(OWN_DATA, _returned(reports, PACKETS))
        self._found(EXPOSED_DATA, _returned([callers], PACKETS))

    async def _strangers(self) -> None:
        """Somebody outside knows the Call IDs of all calls, and sends data to the gateway with them."""
        self._watcher.doing(STRANGER_OUT)
        known = await together([(self._server, "shown_ids", {}), (self._caller, "shown_ids", {})])
        call_ids = sorted({call_id for report in known for call_id in report["call_ids"]})
        spray = {"target": WAN_ADDRESS, "call_ids": call_ids, "packets": _FEW}
        sent = (await self._stranger.ask("spray", **spray)).get("sent", 0)
        # Whoever answers now has also taken what the stranger had sent before.
        reports = await together([(host, "strays", {}) for host in (*self._clients, self._office)])
        came = sum(report["from"].get(STRANGER, 0) for report in reports)
        self._found(STRANGER_OUT, Result(sent - came, sent, note=f"{came} came through" if came else ""))

    async def _hang_up(self) -> None:
        """The clients end their calls, and call again with the same Call ID."""
        self._watcher.doing(HANG_UP)
        reports = await together([(client, "hang_up", {}) for client in self._clients])
        confirmed = sum(report.get("confirmed", 0) for report in reports)
        named = sorted({call_id for report in reports for call_id in report.get("named", [])})
        right = confirmed == len(self._clients)
        note = "" if right or not named else f"it named call {', '.join(map(str, named))}"
        self._found(HANG_UP, Result(confirmed, len(self._clients), note=note or _error(reports)))
        self._watcher.doing(AGAIN)
        calls = await together([(client, "call", {"call_id": CALL_ID}) for client in self._clients])
        reports = await self._exchange(*self._clients, packets=_FEW)
        self._found(AGAIN, _returned(reports, _FEW, _error(calls)))

    async def _second_call(self) -> None:
        """A call in use gets a second one beside it, on the same control connection."""
        client = self._clients[0]
        self._watcher.doing(TWO_CALLS)
        first = await client.ask("dial", server=SERVER, call_id=CALL_ID)
        await self._exchange(client, packets=_FEW)
        second = await client.ask("call", call_id=CALL_ID + 1)
        (report,) = await self._exchange(client, packets=_FEW, calls=2)
        self._found(TWO_CALLS, _returned([report], 2 * _FEW, _error([first, second])))
        await client.ask("stop")

    async def _unusual(self, check: Check, how: dict[str, Any]) -> None:
        """One call whose control messages TCP delivers in unusual portions."""
        client = self._clients[0]
        self._watcher.doing(check)
        call = await client.ask("dial", server=SERVER, call_id=CALL_ID, **how)
        (report,) = await self._exchange(client, packets=_FEW)
        self._found(check, _returned([report], _FEW, _error([call])))
        await client.ask("stop")

    async def _incoming_call(self) -> None:
        """The server makes the call, on the control connection that the client opened."""
        client = self._clients[0]
        self._watcher.doing(INCOMING)
        connected = await client.ask("connect", server=SERVER)
        rung, answered = await together([(self._server, "ring", {}), (client, "answered", {})])
        (report,) = await self._exchange(client, packets=_FEW)
        self._found(INCOMING, _returned([report], _FEW, _error([connected, rung, answered])))

    async def _exchange(self, *hosts: Host, packets: int, calls: int = 1) -> list[dict[str, Any]]:
        """Move data on all calls of the hosts at the same time, and tell the watcher how far they are."""
        came = dict.fromkeys(hosts, 0)
        wanted = packets * calls * len(hosts)

        def progress_of(host: Host) -> Callable[[int], None]:
            def progress(echoes: int) -> None:
                came[host] = echoes
                self._watcher.moved(sum(came.values()), wanted)

            return progress

        for host in hosts:
            host.progress = progress_of(host)
        details = {"packets": packets, "interval": _INTERVAL}
        return await together([(host, "exchange", details) for host in hosts])

    async def _everyone(self, order: str) -> None:
        everyone = (*self._clients, self._caller, self._stranger, self._server, self._office)
        await together([(host, order, {}) for host in everyone])

    def _found(self, check: Check, result: Result) -> None:
        self.results[check] = result
        self._watcher.found(check, result)


async def open_servers(hosts: dict[str, Host]) -> None:
    """Let the two servers listen; they do so for all gateways."""
    ids = {"server": _SERVER_IDS, "office": _OFFICE_IDS}
    await together([(hosts[name], "serve", {"first_id": first}) for name, first in ids.items()])


def _up(reports: list[dict[str, Any]]) -> Result:
    return Result(sum("error" not in report for report in reports), len(reports), note=_error(reports))


def _returned(reports: list[dict[str, Any]], wanted: int, trouble: str = "") -> Result:
    """Count the echoes that came back to those who asked; ``wanted`` is for each report."""
    foreign = sum(report.get("foreign", 0) for report in reports)
    note = trouble or _error(reports) or (f"{foreign} of others" if foreign else "")
    good = sum(report.get("returned", 0) for report in reports)
    return Result(good, wanted * len(reports), wrong=foreign, note=note)


def _error(reports: list[dict[str, Any]]) -> str:
    """The first trouble that was reported, if any."""
    return next((report["error"] for report in reports if "error" in report), "")
