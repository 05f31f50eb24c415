-- Role and database by hand, for servers where the program's role may not create databases. Run it as often as you like.
--
--   DB_PASSWORD='…' psql -h HOST -U postgres -f scripts/init_db.sql
--   psql -h HOST -U postgres -v password='…' -v role=chat_app_user -v database=chat_db -f scripts/init_db.sql
--
-- The tables are made by the program when it first starts. Needs psql and PostgreSQL 15 or newer.

\set ON_ERROR_STOP on
\if :{?role}
\else
  \set role chat_app_user
\endif
\if :{?database}
\else
  \set database chat_db
\endif
\if :{?password}
\else
  \getenv password DB_PASSWORD
\endif
\if :{?password}
\else
  \warn 'No password: set DB_PASSWORD, or add -v password=…'
  \set password ''
\endif

-- A statement that fails is how psql ends with an exit code other than 0.
SELECT :'password' = '' AS password_missing \gset
\if :password_missing
  DO $$ BEGIN RAISE EXCEPTION 'the role needs a password'; END $$;
\endif

SELECT format('CREATE ROLE %I', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec

SET password_encryption = 'scram-sha-256';
ALTER ROLE :"role" LOGIN PASSWORD :'password';

-- Where the administrator is no superuser (managed services), only a member may hand a database over.
SELECT format('GRANT %I TO CURRENT_USER', :'role')
WHERE NOT pg_has_role(current_user, :'role', 'MEMBER') \gexec

SELECT format('CREATE DATABASE %I OWNER %I ENCODING ''UTF8'' TEMPLATE template0', :'database', :'role')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec

ALTER DATABASE :"database" OWNER TO :"role";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE :"database" TO :"role";

-- A database older than PostgreSQL 15 may have come here with a schema of other rights.
\connect :"database"
GRANT USAGE, CREATE ON SCHEMA public TO :"role";

\echo 'Done. Start the program with DB_HOST, DB_USER, DB_PASSWORD and DB_NAME.'
