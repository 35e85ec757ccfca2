// Package confine runs a program that is not trusted, such as the server of a backup that is tested: without network, without
// processes of others in sight, writing nowhere but below one directory, and never longer than the process that started it,
// however that dies. What of it the kernel or the rights of this process do not allow is left out, and named.
//
// As root, or where users may have namespaces of their own, the program gets a network, a process and an IPC namespace. It is
// the first process of its own: when it ends, or this process is killed, the kernel ends all that it has started, and its shared
// memory goes. Landlock keeps it from writing elsewhere, also as the user of a server in production. What it may still do is
// to read what its user may read, and to talk to what listens on a Unix socket: as root it gets a user that nobody else has.
package confine
