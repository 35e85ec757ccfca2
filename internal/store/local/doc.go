// Package local keeps the objects of a store.Store as files below one directory: a disk, a network mount, a
// removable drive. The object data/ab/x is the file data/ab/x below the root; nothing else is needed to copy,
// count or check the objects with ordinary tools.
//
// A write goes through these steps, in this order, and returns after the last one:
//
//	directories   made where missing, each one's parent synced (once per directory and process)
//	temporary     a file in .tmp~ below the root, so that it is on the same file system
//	write, sync   of the whole body
//	publish       Put: rename over the name; Create: link to the name, which fails where there is one
//	sync          of the directory that holds the name
//
// So a name that can be seen always holds a whole, synced file, and a name that was reported as written
// survives a power failure. '~' is no character of an object's name, so .tmp~ is never listed as one.
//
// Files have mode 0600, directories 0700. Symbolic links are followed to the root and nowhere below it. Empty
// directories stay: removing them would race with writers.
package local
