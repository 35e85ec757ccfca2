// Package partial brings back a part of a cluster, a database or a table, as it was at a moment: the cluster is
// recovered in a sandbox, the part is dumped from there, and the sandbox is removed. Where that was not possible, since
// the process was killed, the next extraction does it.
//
// The sandbox answers on a private socket to us alone, has no network address, archives nothing, and runs no
// worker that would call a subscription's publisher. A backup is hostile input: programs of PostgreSQL with
// known holes in how they handle a hostile database are refused.
package partial
