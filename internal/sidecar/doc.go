// Package sidecar lets many short commands share one process that stays for a while. PostgreSQL starts a command
// for each segment of its log, and to open a repository costs each of them more than its work. So the first one
// starts a sidecar, which keeps what is expensive (keys, connections) and works ahead; the others ask it through a
// socket. It ends by itself when nobody asks any more. Nothing depends on it: a command whose sidecar is dead or
// does not answer does its work itself.
package sidecar
