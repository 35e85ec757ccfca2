// Package figure asks a database for single values, in a way that gives the same answers for the same data: of the source, to be
// recorded with a position in the log, and of a server that was recovered, to be compared.
//
// What was committed at the moment of an answer cannot be told from the position alone: a transaction writes its commit into
// the log before others see it. So the answer's MVCC snapshot is recorded too, and a recovered server says which transactions
// it has beyond that. Only where there is none are the two answers about the same data.
package figure
