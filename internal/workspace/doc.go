// Package workspace opens what holdfast.yaml names, for the programs above it: the store of a replica, the
// repository in it with the keys of this host, this host's signing key, and a system with both. It is the one
// place where configuration, floor 1 to 4 and the local files of this host meet, so that the command line, the
// agent and later the server do not wire them each in their own way. It decides nothing and schedules nothing.
package workspace
