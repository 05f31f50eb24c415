#!/bin/sh
# Run once by the postgres image on an empty volume: the role and its database, from the script for doing it by hand.
DB_PASSWORD=$(cat /run/llmchatbot/db_password) \
    psql --no-psqlrc --username "$POSTGRES_USER" --dbname postgres --quiet \
    --set role="$APP_USER" --set database="$APP_DATABASE" --file /usr/local/share/llmchatbot/init_db.sql
