"""Whether an installed package has a known vulnerability: pip-audit, with a word for what it could not look up.

Exit code 1: there is one, or pip-audit itself fails. A database that cannot be reached is said plainly and is no fault
of the code, so that the other checks can be made without a network.
"""

import json
import subprocess
import sys

# pip-audit asks for one package after the other, each within SOCKET_SECONDS.
SOCKET_SECONDS, ALL_SECONDS = 5, 180
# Its service that is a database of vulnerabilities; the other one is a package index, of which a mirror knows no
# vulnerability and answers as if there were none.
COMMAND = [
    sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--format", "json", "--desc", "off",
    "--skip-editable", "--progress-spinner", "off", "--timeout", str(SOCKET_SECONDS),
]  # fmt: skip
UNREACHABLE = (
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "ServiceError",
    "HTTPError",
    "ProxyError",
    "SSLError",
)


def main():
    """Audit the environment that this runs in. Gives the exit code."""
    try:
        run = subprocess.run(COMMAND, capture_output=True, text=True, timeout=ALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return verdict("", f"ReadTimeout: no answer within {ALL_SECONDS} s")
    return verdict(run.stdout, run.stderr)


def verdict(output, errors):
    """Say what pip-audit found, from its output and its errors."""
    if not output.strip():
        last = (errors.strip().splitlines() or ["it printed nothing"])[-1]
        if any(name in errors for name in UNREACHABLE):
            print(f"audit: NOT MADE, the database of vulnerabilities cannot be reached: {last[:300]}")
            return 0
        print(f"audit: pip-audit failed: {last[:300]}")
        return 1
    packages = [each for each in json.loads(output)["dependencies"] if each["name"] != "clrtool"]
    skipped = [f"{each['name']} ({each['skip_reason']})" for each in packages if "skip_reason" in each]
    found = [(each, hole) for each in packages for hole in each.get("vulns", ())]
    for package, hole in found:
        fix = " or ".join(hole["fix_versions"]) or "none yet"
        print(f"audit: {package['name']} {package['version']} has {hole['id']}; fixed in: {fix}")
    if skipped:
        print(f"audit: NOT MADE for {', '.join(skipped)}")
    print(f"audit: {len(packages) - len(skipped)} packages, {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
