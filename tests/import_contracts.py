"""Import contracts of the project's own, for import-linter (pyproject.toml)."""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class PureContract(Contract):
    """Every module outside ``edge`` reaches none of ``forbidden_modules``, directly or through others."""

    forbidden_modules = fields.ListField(subfield=fields.StringField())
    edge = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        unknown = [name for name in self.edge if name not in graph.modules]
        reaching = {
            module
            for target in self.forbidden_modules
            if target in graph.modules
            for module in graph.find_downstream_modules(target)
        }
        impure = {module for module in reaching if self._is_ours(module)} - {
            module for module in graph.modules for name in self.edge if module == name or module.startswith(f"{name}.")
        }
        chains = [
            chain
            for module in sorted(impure)
            for target in self.forbidden_modules
            if target in graph.modules and (chain := graph.find_shortest_chain(module, target))
        ]
        return ContractCheck(kept=not chains and not unknown, metadata={"chains": chains, "unknown": unknown})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for name in check.metadata["unknown"]:
            output.print_error(f"edge names {name}, which does not exist")
        for chain in check.metadata["chains"]:
            output.print_error(" -> ".join(chain))

    def _is_ours(self, module: str) -> bool:
        return module.split(".")[0] in self.session_options["root_packages"]
