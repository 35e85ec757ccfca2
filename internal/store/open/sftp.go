package open

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store/sftp"
)

const (
	sftpForm = "write sftp://user@host/path, sftp://user@host:port/path, or sftp://user@host/~/path for a path below the user's home"

	keysHint = "remove it (and replace it if the URL was seen by others); keys are found as by OpenSSH: an agent (SSH_AUTH_SOCK), " +
		"the files of ~/.ssh, or ?identity-file=/path/to/key"
)

// sftpLists are the parameters of sftp; each may be given several times, and names a file.
var sftpLists = map[string]func(o *sftp.Options) *[]string{
	"identity-file": func(o *sftp.Options) *[]string { return &o.IdentityFiles },
	"known-hosts":   func(o *sftp.Options) *[]string { return &o.KnownHosts },
}

// server reads the URL of a directory on a server. Its errors do not repeat the host: where a password has a slash,
// what is read as the host and the path are parts of it.
func server(u *url.URL) (Location, error) {
	fail := func(reason, next string) (Location, error) {
		return Location{}, &dr.Failure{What: "store URL of sftp", Reason: reason, Next: next}
	}
	if _, has := u.User.Password(); has || strings.ContainsAny(u.User.Username(), ":@") {
		return Location{}, secretIn("has a password before @", keysHint)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fail("its parameters cannot be read", "write them as ?name=value&name=value")
	}
	for name := range query {
		if isSecret(name) {
			return Location{}, secretIn("has a parameter that looks like a credential", keysHint)
		}
	}
	o := &sftp.Options{User: u.User.Username(), Host: u.Hostname()}
	switch {
	case o.User == "" || !printable(o.User):
		return fail("it names no user", sftpForm)
	case o.Host == "" || strings.HasPrefix(o.Host, "-") || !printable(o.Host):
		return fail("it names no host", sftpForm)
	}
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		if o.Port, err = strconv.Atoi(p); err != nil || o.Port < 1 || o.Port > 65535 {
			return fail("its port is none", "write a port from 1 to 65535, or none for 22")
		}
	}
	if o.Dir, err = serverDir(u.Path); err != nil {
		return fail(err.Error(), sftpForm)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		list, known := sftpLists[name]
		if !known {
			return fail(fmt.Sprintf("it has the parameter %q", name), "the parameters are "+strings.Join(slices.Sorted(maps.Keys(sftpLists)), ", "))
		}
		for _, v := range query[name] {
			if !filepath.IsAbs(v) && !strings.HasPrefix(v, "~/") || strings.ContainsRune(v, 0) {
				return fail(fmt.Sprintf("its parameter %s is no absolute path", name), "write "+name+"=/path/to/file or "+name+"=~/.ssh/file")
			}
		}
		*list(o) = query[name]
	}
	return Location{SFTP: o}, nil
}

// serverDir returns a clean path on the server: /~/x is x, which the server takes to be below the user's home.
func serverDir(p string) (string, error) {
	if !printable(strings.ReplaceAll(p, " ", "_")) {
		return "", fmt.Errorf("its path has a character that cannot be printed, or there is none")
	}
	home, below := strings.CutPrefix(p, "/~/")
	if below {
		p = "/" + home
	}
	if p = path.Clean(p); p == "/" || p == "." {
		return "", fmt.Errorf("it names no directory of its own for the store")
	}
	if below {
		return strings.TrimPrefix(p, "/"), nil
	}
	return p, nil
}

// printable tells that text is neither empty nor has what a terminal, or a line of known_hosts, would take amiss.
func printable(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '\ufffd' })
}
