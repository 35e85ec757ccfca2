package quick

import "syscall"

// The work is done here, and not where main begins, because before main everything else is initialised. It is the only
// package of this program that may do so.
func init() {
	if c, ok := parse(arguments()); ok && c.served() {
		syscall.Exit(0)
	}
}

// arguments returns the command line, or nothing where it is too long to be one of ours. It is os.Args, which is not there
// yet.
func arguments() []string {
	f, err := syscall.Open("/proc/self/cmdline", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer syscall.Close(f) //nolint:errcheck // only read
	b := make([]byte, 4096)
	for n := 0; n < len(b); {
		m, err := syscall.Read(f, b[n:])
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return nil
		case m == 0:
			return split(string(b[:n]))
		default:
			n += m
		}
	}
	return nil
}

// split returns the words that each end with a zero byte (proc_pid_cmdline(5)).
func split(line string) (words []string) {
	for i := 0; i < len(line); {
		word, _, _ := cut(line[i:], 0)
		words = append(words, word)
		i += len(word) + 1
	}
	return words
}

// command is a command line that can be answered quickly.
type command struct {
	fetch  bool // wal fetch; otherwise wal push
	config string
	system string
	name   string // %f
	path   string // %p
}

// fetchFlags are the flags with a value that wal fetch may have beside --config. Its sidecar is found by the directory
// that it serves, and was started with the same ones.
var fetchFlags = []string{"--repo", "--site", "--as-of", "--passphrase-file", "--identity", "--data-directory"}

// parse reads a command line, and refuses what it does not know for certain.
func parse(args []string) (c command, ok bool) {
	var words []string
	own := true // no flag is wal fetch's alone
	for i := 1; i < len(args); i++ {
		a := args[i]
		if !begins(a, "-") {
			words = append(words, a)
			continue
		}
		if a == "--quiet" || a == "-q" || a == "--no-progress" {
			continue
		}
		flag, value, joined := cut(a, '=')
		if flag != "--config" {
			if own = false; !isAny(fetchFlags, flag) {
				return c, false
			}
		}
		if !joined {
			if i++; i == len(args) {
				return c, false
			}
			value = args[i]
		}
		if flag == "--config" {
			c.config = value
		}
	}
	switch {
	case len(words) == 4 && words[0] == "wal" && words[1] == "push" && own:
		c.system, c.path = words[2], words[3]
	case len(words) == 5 && words[0] == "wal" && words[1] == "fetch":
		c.fetch, c.system, c.name, c.path = true, words[2], words[3], words[4]
	default:
		return c, false
	}
	return c, isPlain(c.system) && isPlain(c.name) && isPlain(c.path)
}

func isAny(all []string, s string) bool {
	for _, a := range all {
		if a == s {
			return true
		}
	}
	return false
}

// isPlain tells whether a text is its own form in JSON.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// served asks the sidecar, and tells whether what the command is for is done.
func (c *command) served() bool {
	if c.fetch {
		dir, base := splitPath(c.path)
		return askDir(dir, `{"name":"`+c.name+`","file":"`+base+`"}`, `{"outcome":"served","name":"`+c.name+`"`)
	}
	address := Address(c.config, c.system)
	path := c.path
	if !begins(path, "/") {
		wd, err := syscall.Getwd()
		if err != nil || !isPlain(wd) {
			return false
		}
		path = wd + "/" + path
	}
	return address != "" && askOwn(address, `{"path":"`+path+`"}`, `{"durable":true`)
}

func splitPath(path string) (dir, base string) {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i+1], path[i+1:]
		}
	}
	return ".", path
}

// cut and begins are strings.Cut and strings.HasPrefix: strings begins late, for the tables of package unicode.
func cut(s string, at byte) (before, after string, found bool) {
	for i := range len(s) {
		if s[i] == at {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func begins(s, with string) bool { return len(s) >= len(with) && s[:len(with)] == with }
