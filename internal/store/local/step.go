package local

// Op is what a Step does to the file system.
type Op string

// The operations, each one system call.
const (
	OpCreate  Op = "create"  // a new, empty temporary file at Path
	OpWrite   Op = "write"   // Data is appended to the temporary file Path
	OpSync    Op = "sync"    // the bytes of the file Path become durable
	OpMkdir   Op = "mkdir"   // the directory Path; no change where there is one
	OpSyncDir Op = "syncdir" // the names in the directory Path become durable; "" is the root
	OpRename  Op = "rename"  // Path becomes To, replacing it
	OpLink    Op = "link"    // Path gets the second name To; no change where there is one
	OpUnlink  Op = "unlink"  // the name Path goes
)

// Step is one change that a write is about to make. Paths are relative to the root.
type Step struct {
	Op       Op
	Path, To string
	Data     []byte // lent
}

// before announces a step to the hook of the options.
func (s *Store) before(st Step) error {
	if s.opts.Before == nil {
		return nil
	}
	return s.opts.Before(st)
}
