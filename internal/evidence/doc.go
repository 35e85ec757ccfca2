// Package evidence keeps signed records of what was executed: what was done to which system, by whom, how it ended, what was measured,
// and what was not covered. It executes nothing itself, and never removes a record.
//
// Terms:
//
//	statement   what one record says (docs/format/evidence-v1.md), an in-toto statement with a predicate of ours
//	envelope    a statement and its signature: DSSE, Ed25519, the key with which its host signs snapshots
//	log         what one signer has recorded in one scope, a system or the repository: a Merkle tree (RFC 6962) whose leaves are envelopes
//	checkpoint  a signed note that says how many records a log has, and the root of its tree
//	entry       the object that is stored for one record: envelope, checkpoint of the log with it, and what the next one needs
//	spool       the directory on this host in which records wait until a replica has them
//
// How a record is made:
//
//	sign the statement, and put it into the spool, durably     (from now on it is not lost with the process)
//	take the head of the log: the spool's, or the newest entry
//	create the entry with the next number, if it is absent     (record and checkpoint exist at the same instant)
//	note the head, and remove the record from the spool
//
// A process that dies in between leaves what the next one finishes: it recognizes its own record under the number that it wants. A log has
// one writer, since its signer is one host, and that host's writers share the spool's lock. So nobody needs a lock in the repository, and
// the store's exclusive creation is only what tells that this is not so any more.
//
// Whoever verifies computes the tree from the records, and compares each root with the one that was signed with that record: a record
// that was changed, removed, or put elsewhere shows. That records are missing at the end show other replicas, the signers of other logs,
// snapshots, and checkpoints that an auditor has kept, which all say what they have seen.
package evidence
