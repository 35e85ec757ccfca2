// Package parity lets a store heal a little damage by itself: beside each object lies one with Reed-Solomon parity of its bytes, and
// from what is left of both an object is rebuilt of which less was lost than the parity makes up for. It knows nothing of what the
// bytes mean and needs no key. Reads cost nothing more; what is written costs the parity's share in bytes, and a second object.
//
//	Wrap     writes and removes parity with the objects, and hides it
//	Rebuild  reads objects as they were when their parity was written
//	Complete writes what parity lacks, and removes what belongs to nothing; Lacking counts it
//
// The form of a parity object is in codec.go.
package parity
