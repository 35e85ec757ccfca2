// Package rights lets a process of root do something with the rights of an ordinary user. A restored directory
// belongs to the user that runs PostgreSQL, and so does whatever he, or a hostile backup, has put into it: links
// to places that only root may write, for one. What is done there with his rights the kernel itself refuses where
// he could not have done it himself, and the files that are made belong to him.
//
// It covers what the file system decides: opening, making, renaming, removing, and binding a socket. A descriptor
// that is open may be used by anybody.
package rights
