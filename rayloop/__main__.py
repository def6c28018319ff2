from rayloop.cli.app import main

main()
