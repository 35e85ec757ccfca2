// Package config turns holdfast.yaml into checked values, and is the only package that reads YAML or the
// environment. It reads strictly: an unknown key, a wrong type, a value out of range and a name that refers to
// nothing are mistakes, all of them are told in one run, and each has file, line and column. It never opens a
// database or a repository, and the values it returns need no second check.
//
// One description (describe.go) says of every key what it means, what it is when it is left out, and how it is
// read; decoding, defaults, the output of `holdfast config show` and the JSON Schema for editors all follow it.
// Checks that look at several keys are in check.go.
//
// Secrets are never in the file. It names files and environment variables that hold them, and what is read
// from those is a Secret, which no log, message or JSON document shows.
package config
