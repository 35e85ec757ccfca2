package cli

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// confirm lets a person say the name of what is about to be destroyed. Without a terminal the flag --confirm,
// given, must hold it.
func (a *app) confirm(plan, name, given string) error {
	if given == "" && terminal(a.stdin) {
		fmt.Fprintf(a.stderr, "%s\ntype %s to go on: ", plan, name)
		line, err := bufio.NewReader(a.stdin).ReadString('\n')
		if err != nil {
			return err
		}
		given = strings.TrimSpace(line)
	}
	if given == name {
		return nil
	}
	reason := "nobody confirmed it"
	if given != "" {
		reason = fmt.Sprintf("%q is not its name", given)
	}
	return usage(dr.Fail(plan, errors.New(reason), "give --confirm "+name+", or look first with --dry-run"))
}
