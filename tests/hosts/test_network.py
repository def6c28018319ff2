"""Hosts reach each other, break in every way that the network offers, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.factories.until import until
from tests.hosts.host import ROOT, Host
from tests.hosts.network import HostsUnavailable, Network, remove_leftovers
from tests.hosts.ssh import start_sshd

TIMED_OUT = 124
"""The status of ``timeout``."""
KILLED_RUN = """
import os, signal
from tests.hosts.network import Network
from tests.hosts.ssh import start_sshd
with Network() as network:
    print(network.folder, network.add("a").pid, network.add("b").pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def reaches(source: Host, target: Host) -> bool:
    """Whether a TCP packet passes both ways; a refusal is an answer too."""
    probe = source.run("timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{target.name}/1", check=False)
    return "refused" in probe.stderr


def test_hosts_reach_each_other_by_name(client: Host, server: Host) -> None:
    assert reaches(client, server)
    assert reaches(server, client)
    assert client.run("hostname").stdout == "client\n"


def test_host_has_its_own_files_processes_and_memory(client: Host, server: Host) -> None:
    for path in ("/root/file", "/tmp/file", "/srv/file", "/dev/shm/file", "/run/file"):
        client.write(path, client.name)
        assert client.run("cat", path).stdout == client.name
        assert server.run("test", "-e", path, check=False).returncode
        assert not Path(path).exists()
    assert client.run("sh", "-c", "ls -d /proc/[0-9]* | wc -l").stdout.strip() < "9"


def test_address_outside_is_refused_at_once(client: Host) -> None:
    probe = client.run("bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/80", check=False, timeout_s=5)
    assert "unreachable" in probe.stderr.lower() or "No route" in probe.stderr


def test_partition_drops_both_ways_until_healed(network: Network, client: Host, server: Host) -> None:
    network.partition([client], [server])
    assert not reaches(client, server)
    assert not reaches(server, client)
    network.heal()
    assert reaches(client, server)


def test_killed_host_is_gone_and_boots_with_its_disk(client: Host, server: Host) -> None:
    process = server.start("sleep", "1000")
    server.write("/root/kept", "here")
    server.write("/dev/shm/lost", "gone")
    server.kill()
    assert not process.running
    assert not server.up
    assert not reaches(client, server)
    server.boot()
    assert reaches(client, server)
    assert server.run("cat", "/root/kept").stdout == "here"
    assert server.run("test", "-e", "/dev/shm/lost", check=False).returncode


def test_death_of_the_first_process_ends_the_host(server: Host) -> None:
    process = server.start("sleep", "1000")
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.up and not process.running, "the host ends", 10)


def test_frozen_host_answers_after_the_thaw_and_dies_frozen(client: Host, server: Host) -> None:
    server.wait_for_port(80, server.start("python", "-m", "http.server", "80"))
    fetch = ("timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/server/80; echo 'GET / HTTP/1.0\n' >&3; cat <&3")
    until(lambda: "Directory" in client.run(*fetch, check=False).stdout, "the server answers", 20)
    server.freeze()
    assert client.run(*fetch, check=False).returncode == TIMED_OUT
    server.thaw()
    until(lambda: "Directory" in client.run(*fetch, check=False).stdout, "the server answers", 20)
    server.freeze()
    server.kill()


def test_stopped_process_leaves_the_rest_of_its_host_running(server: Host) -> None:
    ticks = server.start("bash", "-c", "while :; do echo; sleep 0.01; done")
    until(lambda: ticks.output, "the process runs", 10)
    ticks.send_signal(signal.SIGSTOP)
    assert server.run("true").returncode == 0
    ticks.send_signal(signal.SIGCONT)
    ticks.stop()
    assert not ticks.running


def test_full_disk_fails_writes_on_that_host_only(network: Network, client: Host) -> None:
    small = network.add("small", disk_mb=8)
    fill = ("dd", "if=/dev/zero", "of=/tmp/large", "bs=1M", "count=9")
    assert "No space left on device" in small.run(*fill, check=False).stderr
    assert small.run("sh", "-c", "echo more >/root/file", check=False).returncode
    client.run(*fill)
    small.kill()
    small.boot()
    assert small.run("stat", "--format=%s", "/tmp/large").stdout.strip() == str(8 << 20)


def test_failure_inside_leaves_nothing_behind(network: Network) -> None:
    links = os.listdir("/sys/class/net")

    def fail() -> None:
        with Network() as other:
            paths.extend([other.folder, Path(f"/proc/{other.add('client').pid}")])
            raise LookupError

    paths: list[Path] = []
    with pytest.raises(LookupError):
        fail()
    assert [path for path in paths if path.exists()] == []
    assert os.listdir("/sys/class/net") == links
    assert network.folder.exists()


def test_killed_run_leaves_a_folder_which_the_next_one_removes(network: Network) -> None:
    command = [sys.executable, "-c", KILLED_RUN]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    folder, *pids = run.stdout.split()
    assert (run.returncode, len(pids)) == (-signal.SIGKILL, 2), run.stderr
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the kernel ends the hosts", 10)
    assert Path(folder) in remove_leftovers()
    assert not Path(folder).exists()
    assert network.folder.exists()


def test_missing_program_says_which_package_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", tempfile.gettempdir())
    with pytest.raises(HostsUnavailable, match="nftables"):
        Network().__enter__()


@pytest.mark.skipif(not Path("/usr/sbin/sshd").exists(), reason="openssh-server is not installed")
def test_ssh_runs_commands_for_hosts_whose_key_it_has(network: Network, client: Host, server: Host) -> None:
    start_sshd(server, [client])
    command = ("server", "hostname; pwd; python -c 'import tests.hosts'")
    assert client.run("ssh", "-o", "BatchMode=yes", *command).stdout.split() == ["server", "/root"]
    stranger = network.add("stranger")
    unknown = ("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no")
    assert "Permission denied" in stranger.run("ssh", *unknown, *command, check=False).stderr
