// Package cli is the command line: flags → config → a call into the floors below → text or JSON. It holds no
// logic that another front end would need too.
//
// A command is a struct of its flags with a method run(ctx) error, built by a constructor that newRootCommand
// lists (root.go), one file per command. A command gets its streams and global flags from *app (app.go), writes
// its result with app.emit, which prints one value as text or as JSON, and returns its error; Main prints that on
// stderr, and exit.go says which exit code it means.
package cli
