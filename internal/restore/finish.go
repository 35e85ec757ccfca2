package restore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// Unfinished reports whether a directory holds an interrupted restore.
func Unfinished(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, journalName))
	return err == nil
}

// IsLatest reports whether a plan goes to the end of the log.
func IsLatest(p *points.Plan) bool { return p.Target.Kind == points.Latest || p.Target.Kind == "" }

// EndingOf returns how the server of a plan ends its recovery where it is seen through: at the end of the log it is asked to.
func EndingOf(p *points.Plan) Ending {
	if IsLatest(p) {
		return Follow
	}
	return Promote
}

// FollowToEnd takes the target out of a restored directory's settings: its server, started again, follows the
// log to its end as a standby.
func FollowToEnd(dir string, owner *Owner) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // nothing is written through it later
	x := &run{layout: &layout{data: &area{dir: dir, root: root}}, opts: Options{To: dir, Owner: owner}}
	auto, err := x.readConf("postgresql.auto.conf")
	if err != nil {
		return err
	}
	if err := x.put("postgresql.auto.conf", withoutTargets(auto)); err != nil {
		return err
	}
	if err := x.put("standby.signal", nil); err != nil {
		return err
	}
	if err := root.Remove("recovery.signal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(dir)
}

// Distrust puts conf in place of all settings that came with a restored cluster, of which only what this package wrote for the
// recovery stays. It returns what the cluster had, as text: postgresql.conf and postgresql.auto.conf.
func Distrust(dir string, owner *Owner, conf string) (had string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close() //nolint:errcheck // nothing is written through it later
	x := &run{layout: &layout{data: &area{dir: dir, root: root}}, opts: Options{To: dir, Owner: owner}}
	main, err := x.readConf("postgresql.conf")
	if err != nil {
		return "", err
	}
	auto, err := x.readConf("postgresql.auto.conf")
	if err != nil {
		return "", err
	}
	if err := x.put("postgresql.conf", []byte(conf)); err != nil {
		return "", err
	}
	if err := x.put("postgresql.auto.conf", onlyBlock(auto)); err != nil {
		return "", err
	}
	return string(main) + "\n" + string(neutralise(auto)), syncDir(dir)
}
