"""The API of Virtplane: resources, the generator of their CRDs, and the client that reads and writes them.

Nothing here knows an operator, an agent or a hypervisor; all of them import from here, and this imports none of them.
"""
