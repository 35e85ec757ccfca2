// Package fusefs shows a directory as a FUSE filesystem whose files of a snapshot are those of a layer; everything else is what lies
// in the directory. It works only on Linux.
//
// It is mounted over the directory itself, which it holds by a descriptor from before. Names, links, modes and owners are the
// directory's own. Which file of the snapshot a file is stands in an extended attribute of it: so a rename takes it along, a
// removal removes it, and a new file of the same name has none, durably and in one step with these, whatever the power does.
//
// Reads and writes of ordinary files, and of files of the snapshot that were whole when nobody had them open, need not come here:
// the kernel does them on the file below (FUSE passthrough, Linux 6.9 and later, as root). The kernel's own cache of
// writes excludes that, and is used where there is none of it. docs/decisions/0027 has the figures.
package fusefs
