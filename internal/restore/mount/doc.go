// Package mount makes a snapshot a directory that a database can run on at once: files are there with their sizes, their content
// comes from the repository when it is read, what is written stays here, durably, and in the background everything comes.
//
//	lay the files: names, sizes, owners; nothing of their content      (restore.Run with restore.Lazy)
//	mount over the directory                                           (fusefs, layer)
//	the server starts on it, replays its log, takes writes             (boot, by whoever calls this)
//	fetch ahead what the replay will read                              (Ahead)
//	hydrate: bring the rest, small files first; a file that is whole is read and written without us from its next opening on
//	finish: unmount; the directory is a plain one
//
// The directory itself is the copy: nothing is moved at the end. Until then it has its pg_control under another name, so that no
// server starts on files of zeros where the mount is gone; through the mount it has the right one. What is known of
// the files and of the mount is in the directory's own .holdfast, which the mount does not show.
//
// After a crash, of this process or of the machine, Resume goes on where it was.
//
// Sub-packages: layer (which blocks are here, durably), fusefs (the filesystem).
package mount
