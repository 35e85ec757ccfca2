// Package dr is the vocabulary of disaster recovery as Holdfast speaks it: systems, sites, positions in a
// change log, recovery points, objectives, and errors that tell a person what to do next. It holds types
// and pure functions only: no I/O, no clock, no goroutine. Every other package may import it.
package dr
