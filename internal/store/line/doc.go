// Package line is what the stores that are reached over HTTP have in common: a request is given up when no byte moved
// for a while, or when it takes longer than the slowest line we put up with needs for its size; its body is lent to
// the transport, and taken back; and what became of a request without an answer has a kind.
package line
