package cli

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Main runs one command and returns its exit code. stdout carries the result, stderr everything else.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	return a.execute(ctx, newRootCommand(a), args)
}

func (a *app) execute(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if !a.started {
		err = usageFailure(command, err)
	}
	code := a.exitCode(ctx, err)
	if fixed := failureCode(command); fixed != 0 && code != exitOf(err) {
		code = fixed
	}
	a.printError(err, code)
	return code
}

// newRootCommand lists the commands.
func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Recover databases after a disaster, and prove every day that it could be done",
		Long: `Holdfast takes snapshots of a running database, keeps its change log up to the last second, and recovers
both to any moment, from one encrypted repository.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	a.addFlags(root.PersistentFlags())

	root.AddCommand(
		newAgentCommand(a),
		newAuditCommand(a),
		newConfigCommand(a),
		newDemoCommand(a),
		newDocsCommand(a),
		newDoctorCommand(a),
		newEvidenceCommand(a),
		newGeoCommand(a),
		newInitCommand(a),
		newKeyCommand(a),
		newLogCommand(a),
		newMountCommand(a),
		newRecoverCommand(a),
		newRecoveryPointsCommand(a),
		newRepoCommand(a),
		newRestoreCommand(a),
		newSnapshotCommand(a),
		newStandbyCommand(a),
		newStatusCommand(a),
		newValidateCommand(a),
		newVerifyCommand(a),
		newVersionCommand(a),
		newWALCommand(a),
	)

	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range all(root) {
		a.prepare(c)
	}
	return root
}

// group returns a command that only holds others.
func group(name, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: name, Short: short}
	g.AddCommand(commands...)
	return g
}

// prepare lets a command's usage errors be told from its failures: whatever goes wrong before RunE begins is one.
func (a *app) prepare(c *cobra.Command) {
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return flagError(c, err) })
	if !c.Runnable() {
		// cobra would print the help of a group and call that success, whatever stands behind it.
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 && !c.HasParent() {
				return c.Help()
			}
			return unknownCommand(c, args)
		}
		return
	}
	if c.RunE == nil {
		return // cobra's own: help, completion
	}
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		a.started, a.command = true, c.CommandPath()
		return run(c, args)
	}
}

func unknownCommand(c *cobra.Command, args []string) error {
	f := &dr.Failure{What: c.CommandPath() + " needs a command", Next: c.CommandPath() + " --help lists them"}
	if len(args) > 0 {
		f.What = "there is no command " + strings.TrimSpace(c.CommandPath()+" "+args[0])
		c.SuggestionsMinimumDistance = 2
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			f.Next = "did you mean " + c.CommandPath() + " " + strings.Join(near, " or ") + "?"
		}
	}
	return f
}

func flagError(c *cobra.Command, err error) error {
	return dr.Fail(c.CommandPath()+": the flags are wrong", err, c.CommandPath()+" --help lists them")
}

// usageFailure gives what cobra says of arguments our form.
func usageFailure(c *cobra.Command, err error) error {
	var f *dr.Failure
	if errors.As(err, &f) {
		return err
	}
	return dr.Fail(c.CommandPath()+": the arguments are wrong", err, "write: "+c.UseLine())
}

// all returns c and every command below it.
func all(c *cobra.Command) []*cobra.Command {
	commands := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		commands = append(commands, all(sub)...)
	}
	return commands
}

// failureAnnotation names the annotation of a command for which every failure has one exit code, because what
// calls it, PostgreSQL, understands no other. See failsWith.
const failureAnnotation = "holdfast-failure-code"

// failsWithLogBroken makes every failure of c, a wrong flag or configuration too, end with exitLogBroken, except
// errors that carry a code by withExit. PostgreSQL would take any lower code for the end of the log and open
// the database for writes.
func failsWithLogBroken(c *cobra.Command) *cobra.Command {
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations[failureAnnotation] = ""
	c.PreRun = func(*cobra.Command, []string) {
		debug.SetTraceback("crash") // a panic then ends with SIGABRT, which PostgreSQL tells from exit code 2
	}
	return c
}

func failureCode(c *cobra.Command) int {
	if c == nil {
		return 0
	}
	if _, ok := c.Annotations[failureAnnotation]; ok {
		return exitLogBroken
	}
	return 0
}
