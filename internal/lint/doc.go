// Package lint is the house rules that a machine can check, as an ordinary Go test: which package may import which
// (the floors), and what no file may do. It has no code of its own. Every exception stands in a table of
// lint_test.go or floors_test.go with its reason.
package lint
